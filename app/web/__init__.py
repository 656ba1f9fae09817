"""What stands between a browser and the pages: who may ask, what may come in, what goes out.

Knows no page. The pages import it; the shell and the server put it together.
"""
