"""What commands show on a terminal: answers, colours, progress bars, tables, wrapped words."""
