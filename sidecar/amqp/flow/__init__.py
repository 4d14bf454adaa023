"""When a publish may go on: policies, gates, and the lanes that wait before them."""
