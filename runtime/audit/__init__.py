"""A promise is checked in the field: what was seen, what it proves, and where it is kept."""
