"""Does this install compute what it should? `comparison` says so; `stored/` holds what it compares with."""
