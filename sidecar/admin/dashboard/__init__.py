"""The dashboard: the page at ``/``, and the files that a browser makes it live with."""
