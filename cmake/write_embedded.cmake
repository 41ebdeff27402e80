# Writes OUT, a C++ source with the bytes of FILE as qg::NAME.
file(READ ${FILE} bytes HEX)
string(REGEX REPLACE "([0-9a-f][0-9a-f])" "0x\\1," bytes "${bytes}")
string(REGEX REPLACE "(................................................................................)" "\\1\n" bytes "${bytes}")
file(WRITE ${OUT} "#include <string_view>

namespace qg {
namespace {
constexpr unsigned char kBytes[] = {
${bytes}0};
}
extern const std::string_view ${NAME};
const std::string_view ${NAME}(reinterpret_cast<const char*>(kBytes), sizeof kBytes - 1);
}  // namespace qg
")
