"""`python -m ttl_deploy` is the console script `ttl-deploy`."""

from ttl_deploy.cli.main import main

if __name__ == "__main__":
    main()
