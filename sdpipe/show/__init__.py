"""What people see: figures, tables, the report, the console."""
