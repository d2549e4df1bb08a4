"""Files with which a cluster is started, and a cluster on one machine (`local_cluster`)."""
