from . import jobrunner_test
