/* One pass over the characters: see keyboard.h. */
#include "core/recipe/keyboard.h"

#include <stdio.h>
#include <string.h>

/* What ASCII has in place of a character; 0: it is no slip. */
static char ascii_of(uint32_t c) {
    static const struct {
        uint32_t wide;
        char ascii;
    } others[] = {{0x3000, ' '}, {0xa0, ' '},   {0x3001, ','}, {0x3002, '.'},  {0x3010, '['},
                  {0x3011, ']'}, {0x201c, '"'}, {0x201d, '"'}, {0x2018, '\''}, {0x2019, '\''}};
    if (c >= 0xff01 && c <= 0xff5e) return (char)(c - 0xff01 + '!');
    for (size_t i = 0; i < sizeof others / sizeof *others; i++)
        if (others[i].wide == c) return others[i].ascii;
    return 0;
}

/* One character of valid UTF-8, and its bytes. */
static uint32_t character(const char *p, size_t *n) {
    unsigned char c = (unsigned char)*p;
    *n = c < 0x80 ? 1 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : 4;
    uint32_t code = *n == 1 ? c : c & (0x7fu >> *n);
    for (size_t i = 1; i < *n; i++) code = code << 6 | ((unsigned char)p[i] & 0x3f);
    return code;
}

static void describe(rw_slip *s, const char *p, size_t n, char ascii) {
    s->kind = ascii == '"' || ascii == '\'' ? RW_SLIP_QUOTE : RW_SLIP_WIDE;
    if (ascii == ' ')
        snprintf(s->text, sizeof s->text, "%s", rw_message("a full-width space; write an ordinary one"));
    else if (ascii == ':')
        snprintf(s->text, sizeof s->text, rw_message("'%.*s' is a full-width character; write ':' and a space"), (int)n,
                 p);
    else if (s->kind == RW_SLIP_QUOTE)
        snprintf(s->text, sizeof s->text, rw_message("'%.*s' is a Chinese quotation mark; write %c, or no quotes"),
                 (int)n, p, ascii);
    else
        snprintf(s->text, sizeof s->text, rw_message("'%.*s' is a full-width character; write '%c'"), (int)n, p, ascii);
}

static bool is_letter(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
}

/* Is the ':' at `i` the end of a word that could be a key, with its value directly after? "http://" is not. */
static bool misses_space(const char *text, size_t from, size_t i, size_t to) {
    size_t word = i;
    while (word > from && is_letter(text[word - 1])) word--;
    bool alone = word < i && (word == from || strchr(" \t\n{,", text[word - 1]));
    if (!alone || i + 1 >= to || strchr(" \t\r\n,}]/", text[i + 1])) return false;
    return ascii_of(character(text + i + 1, &(size_t){0})) != ' '; /* that is the slip then */
}

/* The end of what begins at `i`, if that is a comment or a string in quotes; else `i`. */
static size_t pass_over(const char *text, size_t from, size_t i, size_t to) {
    char c = text[i];
    bool begins = i == from || strchr(" \t\n{[,:", text[i - 1]);
    size_t end = i + 1;
    if (!begins || (c != '#' && c != '"' && c != '\'')) return i;
    for (; end < to && text[end] != '\n'; end++)
        if (c != '#' && text[end] == c) return end + 1;
    return c == '#' ? end : i; /* a quote that is not closed is passed over by nobody */
}

static bool ends_in_comma(char c, size_t end, size_t to) {
    return (c == ',' || c == ';') && end == to;
}

bool rw_slip_find(const char *text, size_t from, size_t to, rw_slip *slip) {
    *slip = (rw_slip){0};
    size_t n;
    for (size_t i = from; i < to; i += n) {
        size_t end = pass_over(text, from, i, to);
        char ascii = ascii_of(character(text + i, &n));
        if (end > i) {
            n = end - i;
            continue;
        }
        slip->offset = i;
        slip->edge = i == from || i + n >= to;
        if (ends_in_comma(ascii ? ascii : text[i], i + n, to)) {
            slip->kind = RW_SLIP_COMMA;
            snprintf(slip->text, sizeof slip->text, rw_message("remove the '%.*s' at the end"), (int)n, text + i);
        } else if (ascii) {
            describe(slip, text + i, n, ascii);
        } else if (text[i] == ':' && misses_space(text, from, i, to)) {
            slip->kind = RW_SLIP_SPACE;
            snprintf(slip->text, sizeof slip->text, "%s", rw_message("a space is missing after ':'"));
        }
        if (slip->kind != RW_SLIP_NONE) return true;
    }
    return false;
}
