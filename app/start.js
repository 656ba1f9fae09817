// Starts Dash; the last module, so that those before have made known what its callbacks call.

new window.DashRenderer();
