"""Problems from files: lines of text, JSON, CSV and Parquet, or standard input."""
