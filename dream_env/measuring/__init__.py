"""How good an agent is: real returns, distance to the expert, result files, their statistics, tables and films."""
