"""Names and connections: looking host names up, dialling addresses."""
