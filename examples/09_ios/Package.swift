// swift-tools-version: 5.9
import PackageDescription

let package = Package(
    name: "Digits",
    platforms: [.iOS(.v16)],
    products: [.library(name: "Digits", targets: ["Digits"])],
    dependencies: [
        .package(
            url: "https://github.com/microsoft/onnxruntime-swift-package-manager",
            from: "1.20.0")
    ],
    targets: [
        .target(
            name: "Digits",
            dependencies: [
                .product(name: "onnxruntime", package: "onnxruntime-swift-package-manager")
            ],
            path: "Sources",
            resources: [.copy("Resources/digits.onnx")])
    ]
)
