"""The head scanner in C, built from the source of this folder, and held against the parser in Python."""
