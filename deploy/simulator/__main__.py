"""Start the simulator: `python -m deploy.simulator --help`; the same as `arrakis-sim serve`."""

from deploy.simulator.serve import serve

if __name__ == "__main__":
    serve()
