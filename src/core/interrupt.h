#pragma once
// Ctrl-C and SIGTERM ask for a stop; long loops look here at places where stopping loses nothing.
namespace qg {

void watch_interrupts();  // once, from main
bool interrupted();
// Throws Error with exit code 75 when a stop was asked for. `what` tells what the same command will go on with.
void stop_if_interrupted(const char* what);

}  // namespace qg
