"""What the paper reports: its tables and figures as data, counted and analysed again."""
