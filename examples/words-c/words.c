// Counts lines, words and bytes of the files it is given, as `wc` does.
#include <ctype.h>
#include <stdio.h>

static int count(const char *path) {
    FILE *file = fopen(path, "r");
    if (!file) {
        perror(path);
        return 1;
    }
    long lines = 0, words = 0, bytes = 0;
    int inside = 0;
    for (int c; (c = getc(file)) != EOF; bytes++) {
        lines += c == '\n';
        words += !inside && !isspace(c);
        inside = !isspace(c);
    }
    fclose(file);
    printf("%ld lines, %ld words, %ld bytes in %s\n", lines, words, bytes, path);
    return 0;
}

int main(int argc, char **argv) {
    int failed = 0;
    for (int i = 1; i < argc; i++) {
        failed += count(argv[i]);
    }
    return failed;
}
