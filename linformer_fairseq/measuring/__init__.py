"""What the scripts in recipes/reproduce and recipes/measure share."""
