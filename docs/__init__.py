"""The documentation: pages, and the scripts that make tables, pictures and reference pages of what they describe."""
