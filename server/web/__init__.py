"""Web pages: a folder of files for each, and a row in `pages.PAGES`."""
