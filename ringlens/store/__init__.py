"""From records to Parquet to SQL. Knows no torch."""
