"""The Dash app. Imports the store and the analyses, never the model, observe or torch."""
