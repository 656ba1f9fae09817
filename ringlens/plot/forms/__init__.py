"""What figures of tables are made of: panels, maps, lines, ranked bars."""
