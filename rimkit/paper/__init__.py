"""What the paper reports: its tables and figures as data, counted, tested and analysed again."""

from rimkit.paper import findings, reanalysis, statistics, tables  # noqa: F401
