"""Problems that ring-nano learns, and thoughts about them whose every step is known."""
