"""Sessions that outlive their broker."""
