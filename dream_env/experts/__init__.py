"""Who can be recorded: scripts, planners, policies of others, recordings played again."""
