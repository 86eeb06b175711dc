"""A file of rows into plain JSON rows, each known by its file and line."""

from landrace.data.columns import parse_map
from landrace.data.faults import Faults
from landrace.data.reader import read_table
from landrace.data.row import DataRow, check_values, kind

__all__ = ["DataRow", "Faults", "check_values", "kind", "parse_map", "read_table"]
