"""What queries see as tables: views over committed files, of tables that are not ours as well."""
