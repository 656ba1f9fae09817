"""Options of every graph on a page."""

CONFIG = {"displayModeBar": False, "showSendToCloud": False, "doubleClick": "reset"}
