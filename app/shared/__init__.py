"""What several pages share: queries, sources, figures and pieces of layout."""
