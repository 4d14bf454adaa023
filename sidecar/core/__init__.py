"""Words that all rooms share. Imports none of them."""
