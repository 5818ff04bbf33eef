"""What teaches and shows: simulated patients, the papers, runner, plots, widgets, report, explorer, command line."""
