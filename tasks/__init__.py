"""What heads are trained and measured for, one record each: network, loss, metric, drawing."""
