"""The SQL page: a query, its rows or a chart of them."""
