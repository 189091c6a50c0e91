"""The colours of a map, from its lowest level to its highest.

Blue to red by way of green, without jet's false edges (Mikhailov, "Turbo", 2019): matplotlib's `turbo` from 0.05 to
0.93, as numbers: loading matplotlib costs each process that draws a tenth of a second.
"""

from typing import Final

import numpy as np

PALETTE: Final = np.frombuffer(  # uint8 (256, 3)
    bytes.fromhex(
        "3d358b3e38913f3b973f3e9c4040a24143a74146ac4146ac4249b1424bb5434eba4451bf4454c34456c74559cb455ccf455ccf455ed3"
        "4661d64664da4666dd4669e0466be3476ee64771e94771e94773eb4776ee4778f0477bf2467df44680f64682f84682f84685fa4687fb"
        "458afc458cfd448ffe4391fe4294ff4196ff4196ff4099ff3e9bfe3d9efe3ba0fd3aa3fc38a5fb37a8fa37a8fa35abf833adf731aff5"
        "2fb2f42eb4f22cb7f02ab9ee28bceb28bceb27bee925c0e723c3e422c5e220c7df1fc9dd1ecbda1ecbda1ccdd81bd0d51ad2d21ad4d0"
        "19d5cd18d7ca18d9c818dbc518dbc518ddc218dec018e0bd19e2bb19e3b91ae4b61ce6b41de7b21de7b21fe9af20eaac22ebaa25eca7"
        "27eea42aefa12cf09e2cf09e2ff19b32f29835f39438f4913cf58e3ff68a43f78746f88446f8844af8804ef97d52fa7a55fa7659fb73"
        "5dfc6f61fc6c61fc6c65fd6969fd666dfe6271fe5f75fe5c79fe597dff5680ff5380ff5384ff5188ff4e8bff4b8fff4992ff4796fe44"
        "99fe4299fe429cfe409ffd3fa1fd3da4fc3ca7fc3aa9fb39acfb38affa37affa37b1f936b4f836b7f735b9f635bcf534bef434c1f334"
        "c3f134c3f134c6f034c8ef34cbed34cdec34d0ea34d2e935d4e735d4e735d7e535d9e436dbe236dde037dfdf37e1dd37e3db38e5d938"
        "e5d938e7d739e9d539ebd339ecd13aeecf3aefcd3af1cb3af1cb3af2c93af4c73af5c53af6c33af7c13af8be39f9bc39faba39faba39"
        "fbb838fbb637fcb336fcb136fdae35fdac34fea933fea732fea732fea431fea130fe9e2ffe9b2dfe992cfe962bfe932afe932afe9029"
        "fd8d27fd8a26fc8725fc8423fb8122fb7e21fa7b1ffa7b1ff9781ef9751df8721cf76f1af66c19f56918f46617f46617f36315f26014"
        "f15d13f05b12ef5811ed5510ec530feb500eeb500eea4e0de84b0ce7490ce5470be4450ae2430ae14109e14109df3f08dd3d08dc3b07"
        "da3907d83706d63506d43305d23105d23105d02f05ce2d04cc2b04ca2a04c82803c52603c32503c12302c12302be2102bc2002b91e02"
        "b71d02b41b01b21a01af1801"
    ),
    np.uint8,
).reshape(256, 3)
