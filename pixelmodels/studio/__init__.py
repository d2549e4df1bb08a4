"""The studio: pages for a browser that watch models draw, complete images and compare versions, by the public HTTP API alone."""
