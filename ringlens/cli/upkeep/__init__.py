"""Commands that check, repair and rewrite a store, or copy parts of it."""
