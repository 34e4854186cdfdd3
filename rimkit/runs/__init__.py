"""Running chapters and grids: papermill, shipped rows."""
