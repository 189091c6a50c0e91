"""Where films come from: a module or a folder for each kind of source."""
