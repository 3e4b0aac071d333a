"""Who calls the monitor here: studies and audits."""
