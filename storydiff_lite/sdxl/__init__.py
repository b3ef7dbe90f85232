"""What SDXL at its true size needs beside the micro model: loading, advice, PhotoMaker, shapes."""
