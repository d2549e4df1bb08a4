"""Which version of a registered model is champion."""
