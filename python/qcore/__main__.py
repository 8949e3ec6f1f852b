from qcore.cli import main

main()
