"""What every part of truing stands on."""
