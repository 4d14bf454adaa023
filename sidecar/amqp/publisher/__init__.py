"""A connection that publishes with confirms."""
