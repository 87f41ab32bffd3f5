"""What training runs did, from the files that they keep. Read `report.py` first, or `release.py`."""
