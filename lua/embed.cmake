# Writes OUT, a C file that holds each of FILES ("a|b|c", below ROOT) as a byte array; see lua/embedded.h.
string(REPLACE "|" ";" files "${FILES}")
list(SORT files)

set(arrays "")
set(rows "")
set(i 0)
foreach(file IN LISTS files)
  file(RELATIVE_PATH name ${ROOT} ${file})
  string(REGEX REPLACE "\\.lua$" "" name ${name})
  string(REPLACE "/" "." name ${name})
  file(READ ${file} hex HEX)
  string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${hex}")
  string(APPEND arrays "static const unsigned char file_${i}[] = {${bytes}0};\n")
  string(APPEND rows "    {\"${name}\", (const char *)file_${i}, sizeof(file_${i}) - 1},\n")
  math(EXPR i "${i} + 1")
endforeach()

file(WRITE ${OUT} "/* Made from lua/rwkv by lua/embed.cmake. */
#include \"lua/embedded.h\"

${arrays}
const struct rw_lua_embedded rw_lua_embedded[] = {
${rows}    {0, 0, 0},
};
")
