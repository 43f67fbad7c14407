from tests.steps.conftest import call as call
