"""A model that thinks for the dashboard, in a process of its own.

The dashboard's side (`thinker`) imports no torch; the model lives in `worker`, which is started by
`process` and answers over two pipes. What it thinks is an ordinary run of the store.
"""
