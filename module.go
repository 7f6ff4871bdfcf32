package jobrunner
